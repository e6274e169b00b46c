"""Rewards that other machines compute, over HTTP."""
