"""FCMAE V2: the fully convolutional masked autoencoder of ConvNeXt V2 (Woo et al. 2023), on blood cells.

`encoder` is ConvNeXt V2 with the official key names, dense or on visible sites only; `masking` draws the
masks; `autoencoder` adds decoder and loss; `pretrain` trains it; `probe` judges what was learnt;
`weights` reads and writes backbones.
"""
