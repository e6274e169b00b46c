"""Pools of Ray actors that work through streams of tasks and replace the actors that die."""
