"""What encoders are made of: backbone, pooling, projection, adapters."""
