"""Slurm jobs: a profile of a cluster, the script of a job, and its submission."""
