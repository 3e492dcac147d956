"""The report page and the model card, made from a run's files; tables of the console; files of measured figures."""
