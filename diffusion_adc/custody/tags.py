"""The allow-list: which DICOM attributes leave the clinic, and in which form.

What is not named here does not leave, at any depth of nesting. Text is never copied: a value is a number, a word
of a closed vocabulary, a hashed UID, a code of the standard's own tables, or it is gone. Two public de-identifiers
built on block-lists left 7 and 33 of 40 planted identifiers; a list of what is known to be harmless cannot leak
what nobody thought of. (DICOM PS3.15 annex E: basic profile with clean-descriptors, clean-graphics and
retain-patient-characteristics options.)
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


PROFILE: Final = "diffusion_adc allow-list 1"

MR: Final = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR: Final = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_ENHANCED_MR: Final = "1.2.840.10008.5.1.4.1.1.4.4"
SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
STORAGE: Final = frozenset({MR, ENHANCED_MR, LEGACY_ENHANCED_MR, SEGMENTATION})
"""SOP classes that may leave. Secondary captures, presentation states, reports and documents hold text."""

NUMBERS: Final = _split(
    """
    SliceThickness SpacingBetweenSlices PixelSpacing ImagePositionPatient ImageOrientationPatient
    SliceLocation InstanceNumber SeriesNumber AcquisitionNumber TemporalPositionIdentifier
    NumberOfTemporalPositions ImagesInAcquisition InStackPositionNumber TemporalPositionIndex
    DimensionIndexValues RepetitionTime EchoTime EffectiveEchoTime InversionTime InversionTimes
    FlipAngle EchoTrainLength EchoNumbers NumberOfAverages MagneticFieldStrength PixelBandwidth
    AcquisitionMatrix PercentSampling PercentPhaseFieldOfView NumberOfPhaseEncodingSteps
    RFEchoTrainLength GradientEchoTrainLength MRAcquisitionFrequencyEncodingSteps
    MRAcquisitionPhaseEncodingStepsInPlane DiffusionBValue DiffusionGradientOrientation
    DiffusionBValueXX DiffusionBValueXY DiffusionBValueXZ DiffusionBValueYY DiffusionBValueYZ
    DiffusionBValueZZ SamplesPerPixel Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit
    PixelRepresentation SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue
    WindowCenter WindowWidth RescaleSlope RescaleIntercept RealWorldValueSlope
    RealWorldValueIntercept RealWorldValueFirstValueMapped RealWorldValueLastValueMapped
    DoubleFloatRealWorldValueFirstValueMapped DoubleFloatRealWorldValueLastValueMapped SegmentNumber
    ReferencedSegmentNumber ReferencedFrameNumber MaximumFractionalValue
    RecommendedDisplayCIELabValue
    """
)

UIDS: Final = _split(
    """
    SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID ReferencedSOPInstanceUID
    DimensionOrganizationUID ConcatenationUID TrackingUID
    """
)

CLASS_UIDS: Final = frozenset({"SOPClassUID", "ReferencedSOPClassUID"})

SEQUENCES: Final = _split(
    """
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence
    PlanePositionSequence PlaneOrientationSequence FrameContentSequence MRDiffusionSequence
    DiffusionGradientDirectionSequence DiffusionBMatrixSequence PixelValueTransformationSequence
    RealWorldValueMappingSequence MRImageFrameTypeSequence MREchoSequence
    MRTimingAndRelatedParametersSequence MRAveragesSequence MRModifierSequence MRFOVGeometrySequence
    FrameVOILUTSequence DimensionOrganizationSequence DimensionIndexSequence SegmentSequence
    SegmentIdentificationSequence DerivationImageSequence SourceImageSequence
    ReferencedSeriesSequence ReferencedInstanceSequence
    """
)

CODE_SEQUENCES: Final = frozenset(
    [
        "MeasurementUnitsCodeSequence",
        "SegmentedPropertyCategoryCodeSequence",
        "SegmentedPropertyTypeCodeSequence",
        "QuantityDefinitionSequence",
        "DerivationCodeSequence",
        "PurposeOfReferenceCodeSequence",
        "DeidentificationMethodCodeSequence",
    ]
)

_YES_NO: Final = frozenset({"YES", "NO"})
_IMAGE_WORDS: Final = _split(
    """
    ORIGINAL DERIVED MIXED PRIMARY SECONDARY OTHER NONE M P R I MAGNITUDE PHASE REAL IMAGINARY M_SE
    M_FFE M_IR M_TSE ND NORM DIS2D DIS3D DIS3D2D MFSPLIT FM FIL SH FIR PFP ADC EADC TRACEW TRACE
    ISOTROPIC DIFFUSION B0 DIFFUSION_ANISO ANISOTROPY FA CALC_BVAL CALCULATED COMPUTED MEAN DWI
    PROCESSED REFORMATTED MPR MIP PROJECTION IMAGE LOCALIZER SCOUT WATER FAT IN_PHASE OUT_PHASE IN
    OPP IP OP W F DIXON MOSAIC COMPOSED COMP_SP STITCHED VOLUME SPIN_ECHO GRADIENT_ECHO T1 T2
    T2_STAR PROTON_DENSITY DENSITY_MAP T1_MAP T2_MAP FLUID_ATTENUATED STIR MULTIECHO PERFUSION
    SUBTRACTION ADD AVERAGE COMBINED SE FFE IR UNSPECIFIED UNKNOWN DISTORTED SAMPLED
    """
)

VOCABULARY: Final[dict[str, frozenset[str]]] = {
    "Modality": frozenset({"MR", "SEG"}),
    "ImageType": _IMAGE_WORDS,
    "FrameType": _IMAGE_WORDS,
    "ScanningSequence": frozenset({"SE", "IR", "GR", "EP", "RM"}),
    "SequenceVariant": frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"}),
    "ScanOptions": _split(
        """
    PER RG CG PPG FC PFF PFP SP FS FAT_SAT FATSAT SAT1 SAT2 SAT_GEMS EDR_GEMS EPI_GEMS DIFF_GEMS
    ACC_GEMS PER_GEMS FAST_GEMS FILTERED_GEMS IR STIR SPAIR SPIR WE DIXON FR MT OTHER
    """
    ),
    "MRAcquisitionType": frozenset({"2D", "3D"}),
    "InPlanePhaseEncodingDirection": frozenset({"ROW", "COL", "COLUMN", "OTHER"}),
    "PatientPosition": frozenset({"HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"}),
    "BodyPartExamined": _split(
        """
    HEAD BRAIN SKULL FACE JAW NECK HEADNECK CHEST THORAX LUNG BREAST HEART ABDOMEN LIVER PANCREAS
    KIDNEY SPLEEN PELVIS PROSTATE UTERUS CERVIX OVARY BLADDER RECTUM HIP SPINE CSPINE TSPINE LSPINE
    SSPINE ABDOMENPELVIS CHESTABDPELVIS WHOLEBODY EXTREMITY THIGH LEG KNEE SHOULDER BONE
    """
    ),
    "Laterality": frozenset({"R", "L", "B", "U"}),
    "PhotometricInterpretation": frozenset({"MONOCHROME1", "MONOCHROME2"}),
    "DiffusionDirectionality": frozenset({"NONE", "DIRECTIONAL", "ISOTROPIC", "BMATRIX"}),
    "DiffusionAnisotropyType": frozenset({"FRACTIONAL", "RELATIVE", "VOLUME_RATIO"}),
    "PixelPresentation": frozenset({"MONOCHROME", "TRUE_COLOR"}),
    "VolumetricProperties": frozenset({"VOLUME", "SAMPLED", "DISTORTED", "MIXED"}),
    "VolumeBasedCalculationTechnique": frozenset({"NONE", "MAX_IP", "MIN_IP", "VOLUME_RENDER", "MIXED"}),
    "ComplexImageComponent": frozenset({"MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "MIXED"}),
    "AcquisitionContrast": _split(
        """
    DIFFUSION FLOW_ENCODED FLUID_ATTENUATED PERFUSION PROTON_DENSITY STIR TAGGING T1 T2 T2_STAR TOF
    UNKNOWN MIXED
    """
    ),
    "InversionRecovery": _YES_NO,
    "SpectrallySelectedSuppression": frozenset({"FAT", "WATER", "FAT_AND_WATER", "SILICON_GEL", "NONE"}),
    "LossyImageCompression": frozenset({"00", "01"}),
    "PresentationLUTShape": frozenset({"IDENTITY", "INVERSE"}),
    "PatientSex": frozenset({"M", "F", "O"}),
    "PatientIdentityRemoved": frozenset({"YES"}),
    "LongitudinalTemporalInformationModified": frozenset({"REMOVED", "MODIFIED"}),
    "BurnedInAnnotation": frozenset({"NO"}),
    "RecognizableVisualFeatures": _YES_NO,
    "SegmentationType": frozenset({"BINARY", "FRACTIONAL", "LABELMAP"}),
    "SegmentationFractionalType": frozenset({"PROBABILITY", "OCCUPANCY"}),
    "SegmentAlgorithmType": frozenset({"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"}),
    "SegmentsOverlap": frozenset({"YES", "NO", "UNDEFINED"}),
    "DimensionOrganizationType": frozenset({"3D", "3D_TEMPORAL", "TILED_FULL", "TILED_SPARSE"}),
    "SpatialLocationsPreserved": frozenset({"YES", "NO", "REORIENTED_ONLY"}),
}
"""Coded words by attribute; a word outside its set becomes ``OTHER`` in a type, else the attribute is dropped."""

POINTERS: Final = frozenset({"DimensionIndexPointer", "FunctionalGroupPointer"})

FIXED: Final[dict[str, re.Pattern[str]]] = {
    "RescaleType": re.compile(
        r"US|HU|NORMALIZED|UNSPECIFIED|(?:1?0?(?:\^|\*\*?|E|e)?-?0?[36] ?[x*.]? ?)?(?:mm|um|µm|m)\^?2 ?/ ?s",
        re.ASCII,
    ),
    "StackID": re.compile(r"[0-9]{1,3}", re.ASCII),
    "StudyID": re.compile(r"[0-9]{2}", re.ASCII),
    "SegmentLabel": re.compile(r"segment [0-9]{1,4}", re.ASCII),
    "DeidentificationMethod": re.compile(re.escape(PROFILE)),
    "PatientAge": re.compile(r"0(?:[0-8][0-9]|90)Y", re.ASCII),
}
"""Short forms that hold nobody's text."""

EMPTY: Final = (
    "PatientBirthDate", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
    "PositionReferenceIndicator",
)  # fmt: skip
"""Attributes a reader may insist on; written without a value."""

SUBJECT: Final = ("PatientID", "PatientName")

UNITS: Final[dict[str, str]] = {
    "mm2/s": "square millimeter per second",
    "um2/s": "square micrometer per second",
    "10*-6.mm2/s": "1e-6 square millimeter per second",
    "10-6.mm2/s": "1e-6 square millimeter per second",
    "10*-3.mm2/s": "1e-3 square millimeter per second",
    "10-3.mm2/s": "1e-3 square millimeter per second",
    "s/mm2": "second per square millimeter",
    "1": "no units",
}
"""Units of UCUM that a diffusion image can have."""

_VENDORS: Final = (
    "SIEMENS",
    "GE MEDICAL SYSTEMS",
    "PHILIPS",
    "CANON",
    "TOSHIBA",
    "UIH",
    "HITACHI",
    "FUJIFILM",
)
_MODELS: Final = _split(
    """
    aera altea amira avanto biograph cima connectom espree essenza free flow harmony impact lumina
    magnetom max mmr prisma prisma_fit skyra skyra_fit sola star sempra symphony terra trio triotim
    verio vida viato signa discovery optima pioneer architect premier hdxt hdx hde excite artist
    voyager hero creator explorer brivo mr450 mr450w mr750 mr750w mr355 mr360 pet mr ingenia achieva
    intera panorama multiva prodiva elition ambition evolution dstream x s cx mr5300 mr7700 vantage
    titan galan orian elan centurian fortian atlas gracian excelart zgo powered mrt200 umr omega 560
    570 580 586 588 670 680 770 780 790 870 880 890 jupiter echelon oval smart trillium synergy
    apollo airis vento elite aperto lucent
    """
)
_DESCRIPTION: Final = _split(
    """
    adc eadc apparent diffusion coefficient dwi dwibs diff ddwi resolve ep2d epi zoomit trace tracew
    iso b bval calc calculated computed synthetic mip mpr map t1 t1w t2 t2w t2star pd proton density
    w tse fse ssfse haste blade propeller vibe lava thrive flash fl2d fl3d gre spgr se tfl tfl3d
    mprage dixon water fat in opp phase out stir tirm spair spir fs fatsat flair space cube vista
    localizer scout loc survey tra trans ax axial transversal cor coronal sag sagittal obl oblique
    pelvis abdomen chest neck head brain spine prostate whole body wb station composed stitched pre
    post contrast dyn dce perf free breathing breath hold bh resp trig reg moco dist mix mm2 2d 3d
    lesion tumor mask roi segmentation label
    """
)
_MARKS: Final = {
    "adc": re.compile(r"ADC|(?<![A-Za-z])adc(?![a-z])|[Aa]pparent[ _]?[Dd]iff", re.ASCII),
    "calc": re.compile(r"calc", re.ASCII | re.IGNORECASE),
}
"""What must not get lost where it is part of a longer word: maps and computed images are no measured images."""
_LONG_STRING: Final = 64
_WORD: Final = re.compile(r"[A-Za-z0-9]+", re.ASCII)
_B_WORD: Final = re.compile(r"b[0-9]{1,4}", re.ASCII)


def vendor(text: str) -> str | None:
    """The manufacturer's name as this package writes it, None for one it does not know."""
    upper = text.upper().replace("UNITED IMAGING", "UIH")
    if upper.startswith("GE ") or upper == "GE":
        return "GE MEDICAL SYSTEMS"
    return next((name for name in _VENDORS if upper.startswith(name)), None)


def model(text: str) -> str | None:
    """The known words of a scanner's model name; what else it holds is left behind."""
    return _fitting(_known(text, _MODELS), [])


def description(text: str) -> str | None:
    """The known words of a series description: enough to tell an ADC map, nothing that anyone typed."""
    found = _known(text, _DESCRIPTION)
    lower = {word.lower() for word in found}
    marks = [mark for mark, sign in _MARKS.items() if mark not in lower and sign.search(text)]
    return _fitting(found, marks)


def _known(text: str, words: frozenset[str]) -> list[str]:
    found = [w for w in _WORD.findall(text) if w.lower() in words or _B_WORD.fullmatch(w.lower())]
    return list(dict.fromkeys(found))


def _fitting(words: list[str], last: list[str]) -> str | None:
    """As many whole words as fit into a DICOM long string, the last ones among them."""
    room = _LONG_STRING - len(" ".join(["", *last] if last else []))
    kept: list[str] = []
    for word in words:
        if len(" ".join([*kept, word])) > room:
            break
        kept.append(word)
    return " ".join([*kept, *last]) or None


OWN_CODES: Final[dict[tuple[str, str], str]] = {
    ("DCM", "113100"): "Basic Application Confidentiality Profile",
    ("DCM", "113103"): "Clean Graphics Option",
    ("DCM", "113105"): "Clean Descriptors Option",
    ("DCM", "113108"): "Retain Patient Characteristics Option",
    ("DCM", "113109"): "Retain Device Identity Option",
    **{("UCUM", code): meaning for code, meaning in UNITS.items()},
}
"""Codes of every delivery, so that the standard's large tables are only read for others."""


@cache
def _codes() -> dict[tuple[str, str], str]:
    from pydicom.sr._concepts_dict import concepts  # the tables behind pydicom.sr.codedict

    tables: Any = concepts
    return {
        (scheme, code): str(meaning)
        for scheme in ("DCM", "SCT")
        for entries in tables[scheme].values()
        for code, (meaning, _) in entries.items()
    }


def code_meaning(scheme: str, value: str) -> str | None:
    """Meaning of a code in the standard's tables (DCM, SCT, UCUM), None for any other."""
    own = OWN_CODES.get((scheme, value))
    return _codes().get((scheme, value)) if own is None and scheme in ("DCM", "SCT") else own
