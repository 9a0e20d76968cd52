"""What leaves a run, held against its neighbours."""
