"""The recipe's data, read, checked and split. Every row that is read is used, rejected or dropped, and counted so."""
