"""Training stages: thin LightningModules over the networks and the flow."""

from .codec_stage import CodecStage
from .drawing import DrawingStage
from .ema import EMA
from .head_stage import HeadStage
from .learning import LearningStage
from .presence_flow import PresenceFlowStage

__all__ = ["EMA", "CodecStage", "DrawingStage", "HeadStage", "LearningStage", "PresenceFlowStage"]
