"""Results out: tumor maps as DICOM objects of the study they came from."""
