"""Pure rules of the console: which rows an event becomes, what a person may do, what a screen contains."""
