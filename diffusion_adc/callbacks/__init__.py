"""What happens beside training: sample grids, the run's record, safe checkpoints, the tracker."""
