"""How layers of a model compute in training and search: attention, dropout, the LM head, trained rows."""
