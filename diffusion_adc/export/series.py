"""The tumor ADC as a plain MR series: int16 in 1e-6 mm²/s, readable by every viewer (PS3.3 A.4)."""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom.pm import RealWorldValueMapping
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from diffusion_adc import __version__
from diffusion_adc.domain.errors import CaseError
from diffusion_adc.export import codes
from diffusion_adc.export.sources import SERIES, SOFTWARE, Outgoing, finish, place

PADDING: Final = -1
"""Stored where there is no tumor: 0 is a legal ADC, a negative one is not."""
CEILING: Final = 32767
_PER_CANONICAL: Final = 1000.0
"""From 1e-3 mm²/s to 1e-6 mm²/s."""


def mr_series(out: Outgoing) -> list[Dataset]:
    """One MR image per slice, in the order of the case's third axis.

    Values are rounded to 1e-6 mm²/s; maps that a scanner stored as integers of that unit keep theirs exactly.

    Raises:
        CaseError: S14, an ADC that int16 cannot hold.
    """
    stored = stored_adc(out)
    return [_slice(out, stored[k], k) for k in range(stored.shape[0])]


def stored_adc(out: Outgoing) -> NDArray[np.int16]:
    """int16 (K, rows, columns) in 1e-6 mm²/s, `PADDING` outside the tumor.

    Raises:
        CaseError: S14, see `mr_series`.
    """
    scaled = np.rint(out.tumor_adc.astype(np.float64) * _PER_CANONICAL)
    if scaled.max(initial=0) > CEILING:
        raise CaseError(
            f"an ADC of {scaled.max() / _PER_CANONICAL:g} in 1e-3 mm²/s", f"at most {CEILING / _PER_CANONICAL:g}",
            "check the unit of the ADC map", code="S14", research_id=out.research_id, sequence="tumor_adc",
        )  # fmt: skip
    return np.where(out.labels > 0, scaled, PADDING).astype(np.int16)


def _slice(out: Outgoing, pixels: NDArray[np.int16], k: int) -> Dataset:
    dataset = out.identity()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, out.uid("instance", "mr", k)
    dataset.ImageType = ["DERIVED", "SECONDARY", "DIFFUSION MAP"]
    number, description = SERIES["mr"]
    dataset.Modality, dataset.SeriesInstanceUID = "MR", out.uid("series", "mr")
    dataset.SeriesNumber, dataset.SeriesDescription = number, description
    dataset.InstanceNumber = k + 1
    dataset.Manufacturer = dataset.ManufacturerModelName = SOFTWARE
    dataset.SoftwareVersions = __version__
    dataset.AcquisitionNumber = dataset.PatientPosition = dataset.Laterality = ""
    # Type 1 and 2 attributes of the MR Image module. How the source was acquired is the source's to say.
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    dataset.MRAcquisitionType = "2D"
    dataset.EchoTime = dataset.RepetitionTime = dataset.EchoTrainLength = ""
    place(dataset, out, k)
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    dataset.ContentQualification = "RESEARCH"
    dataset.DerivationDescription = "Scanner ADC where an AI model finds tumor; padding elsewhere"
    dataset.DerivationCodeSequence = [codes.ADC]
    dataset.SourceImageSequence = [_source(out, k)]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelPaddingValue = PADDING
    dataset.WindowCenter, dataset.WindowWidth = "1500", "3000"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "0", "um2/s"
    dataset.RealWorldValueMappingSequence = [
        RealWorldValueMapping(
            lut_label="ADC",
            lut_explanation="Apparent diffusion coefficient",
            unit=codes.SQUARE_UM_PER_S,
            value_range=(PADDING, CEILING),  # readers refuse images with values outside the range
            slope=1.0,
            intercept=0.0,
            quantity_definition=codes.ADC,
        )
    ]
    dataset.PixelData = np.ascontiguousarray(pixels, dtype="<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return finish(dataset, out)


def _source(out: Outgoing, k: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = out.reference.adc_sop_class
    item.ReferencedSOPInstanceUID = out.reference.adc_sop_uids[0 if len(out.sources) == 1 else k]
    if out.reference.layout != "classic":
        item.ReferencedFrameNumber = k + 1  # of the stand-in; `finish` leads it to the true frame
    item.PurposeOfReferenceCodeSequence = [codes.DERIVED_FROM]
    item.SpatialLocationsPreserved = "YES"
    return item
