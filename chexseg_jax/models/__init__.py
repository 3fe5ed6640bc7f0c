"""The networks: Flax Linen modules, used as pure functions.

`module.apply(variables, images [B,H,W,3] float32, normalised by the caller, train=False) -> (logits, out)`

===========================  =========  ==========================================================================
network                      logits     out
===========================  =========  ==========================================================================
an encoder, as a classifier  [B,L]      `features` [B,h,w,C], the map that Grad-CAM reads
`DECODER_ENCODER`            [B,H,W,K]  `features` [B,h,w,D], the decoder's map
`irnet`                      None       `edge` [B,h,w,1] (logits), `displacement` [B,h,w,2] (dy, dx), at stride 4
===========================  =========  ==========================================================================

Encoders: ResNet (He et al., 2016, arXiv 1512.03385) and DenseNet121 (Huang et al., 2017, arXiv 1608.06993), as in
torchvision. Decoder: DeepLabv3+ (Chen et al., 2018, arXiv 1802.02611), as in segmentation-models-pytorch.

An encoder of your own is a module in `ENCODERS` with
  - a field `num_classes` (0: no head); every other field is an option of `create`. It gets an `axis_name` and an
    `output_stride` if it has such fields;
  - `stages(images, train) -> {stride: map [B, H / stride, W / stride, C]}`: the last map at each of the strides 2 to
    32 that it has;
  - as a classifier, `__call__(images, train) -> (logits, {"features": map})` and `classify(features) -> logits`;
  - class attributes `head` and `stem`: the names of its last layer and of its first convolution, None if it has none.

A decoder of your own is a module in `DECODERS` with a class attribute `strides`, those that it needs, and
`__call__(maps, train) -> map`; `Segmenter` adds the head and upsamples.
"""

from chexseg_jax.models import torch_weights
from chexseg_jax.models.zoo import DECODERS, ENCODERS, create

__all__ = ["DECODERS", "ENCODERS", "create", "torch_weights"]
