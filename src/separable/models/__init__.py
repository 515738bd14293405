"""Reference networks, one family a file. In: a name, width, classes. Out: networks as published, weights random."""

from separable.models.boxes import DefaultBoxes
from separable.models.catalogue import NAMES, build, example
from separable.models.causal_keywords import causal_keywords
from separable.models.csn import csn50, csn101, csn152
from separable.models.deeplab import (
    DeepLabV3Plus,
    deeplabv3plus,
    deeplabv3plus_mobilenet_v2,
    deeplabv3plus_mobilenet_v3_large,
    deeplabv3plus_resnet50,
    deeplabv3plus_xception,
)
from separable.models.detections import Detections, DetectOptions
from separable.models.ds_cnn import ds_cnn_large, ds_cnn_medium, ds_cnn_small
from separable.models.efficientnet import (
    SCALINGS,
    Scaling,
    compound_scaling,
    efficientnet,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_lite0,
)
from separable.models.ghostnet import ghostnet
from separable.models.lraspp import LRASPP, lraspp_mobilenet_v3_large
from separable.models.mnasnet import mnasnet
from separable.models.mobilenet_v1 import mobilenet_v1
from separable.models.mobilenet_v2 import mobilenet_v2
from separable.models.mobilenet_v2_3d import mobilenet_v2_3d
from separable.models.mobilenet_v3 import (
    mobilenet_v3_large,
    mobilenet_v3_large_minimalistic,
    mobilenet_v3_small,
    mobilenet_v3_small_minimalistic,
)
from separable.models.quartznet import quartznet, quartznet_5x5, quartznet_10x5, quartznet_15x5
from separable.models.resnet import resnet18, resnet34, resnet50, resnet_small
from separable.models.ssdlite import SSDLite, ssdlite, ssdlite320_mobilenet_v2, ssdlite320_mobilenet_v3_large
from separable.models.taps import Taps, blocks_of, dilate_
from separable.models.text import encode_text, separable_text
from separable.models.timm import from_timm
from separable.models.vgg import vgg16
from separable.models.video_resnet import r2plus1d_18, r3d_18, video_resnet_small
from separable.models.xception import xception

__all__ = [
    "LRASPP",
    "NAMES",
    "SCALINGS",
    "DeepLabV3Plus",
    "DefaultBoxes",
    "DetectOptions",
    "Detections",
    "SSDLite",
    "Scaling",
    "Taps",
    "blocks_of",
    "build",
    "causal_keywords",
    "compound_scaling",
    "csn50",
    "csn101",
    "csn152",
    "deeplabv3plus",
    "deeplabv3plus_mobilenet_v2",
    "deeplabv3plus_mobilenet_v3_large",
    "deeplabv3plus_resnet50",
    "deeplabv3plus_xception",
    "dilate_",
    "ds_cnn_large",
    "ds_cnn_medium",
    "ds_cnn_small",
    "efficientnet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_lite0",
    "encode_text",
    "example",
    "from_timm",
    "ghostnet",
    "lraspp_mobilenet_v3_large",
    "mnasnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v2_3d",
    "mobilenet_v3_large",
    "mobilenet_v3_large_minimalistic",
    "mobilenet_v3_small",
    "mobilenet_v3_small_minimalistic",
    "quartznet",
    "quartznet_5x5",
    "quartznet_10x5",
    "quartznet_15x5",
    "r2plus1d_18",
    "r3d_18",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_small",
    "separable_text",
    "ssdlite",
    "ssdlite320_mobilenet_v2",
    "ssdlite320_mobilenet_v3_large",
    "vgg16",
    "video_resnet_small",
    "xception",
]
