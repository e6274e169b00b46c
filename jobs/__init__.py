"""What people start: straight-line jobs on top of `actors` and `tangoflux`."""
