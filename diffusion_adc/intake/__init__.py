"""What is in the files: examinations on disk become cases that can be trusted to the voxel."""
