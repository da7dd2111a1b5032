"""What a network is: builders of torch models by architecture. Knows no data, no training loop, no other room."""
