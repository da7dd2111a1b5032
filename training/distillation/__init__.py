"""Knowledge distillation: a student learns what a teacher says and how it gets there (Hinton et al., 1503.02531)."""
