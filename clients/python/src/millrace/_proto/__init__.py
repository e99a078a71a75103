"""What generate.sh makes of the contract. Not part of the client's interface."""
