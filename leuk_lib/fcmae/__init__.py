"""FCMAE V2: the fully convolutional masked autoencoder of ConvNeXt V2 (Woo et al. 2023), applied to blood cells."""
