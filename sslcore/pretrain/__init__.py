"""Image pretraining: the first floor of `sslcore`."""
