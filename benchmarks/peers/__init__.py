"""The peers: a server file each, written as its documentation shows it, and the exact packages of its environment."""
