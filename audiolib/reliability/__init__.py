"""What happens when things go wrong, tried many times: `python -m audiolib.reliability`."""
