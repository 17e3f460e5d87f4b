"""DICOM studies → examinations: headers, series, geometry, kinds, pixels, units, studies."""
