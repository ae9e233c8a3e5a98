"""Documents made part of a model, once and for all: what ``seal adapt`` does, and the folder it leaves."""
