"""What people type: the command line, on top of everything else."""
