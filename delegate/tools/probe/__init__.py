"""`python -m delegate probe`: small programs with known answers that settle the open questions on a device."""
