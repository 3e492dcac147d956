"""Raw dumps to tables: a dataset card names the files, the data stage cleans and splits them."""
