"""Training stages: thin LightningModules over the networks and the flow."""

from .drawing import DrawingStage
from .ema import EMA
from .presence_flow import PresenceFlowStage

__all__ = ["EMA", "DrawingStage", "PresenceFlowStage"]
