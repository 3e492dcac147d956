"""The report page of a run: one offline HTML file, made only from the files of the run."""
