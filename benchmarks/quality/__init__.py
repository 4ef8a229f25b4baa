"""Three tasks with known answers, trainings that do them well, and trainings that went wrong as trainings do."""
