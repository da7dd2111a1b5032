"""The search for the settings of a recipe that train the best model, on Optuna."""
