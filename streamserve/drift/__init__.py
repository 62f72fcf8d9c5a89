"""Drift: samples to profiles to decisions. Pure numpy; the service around it is `streamserve.sidecar`."""
