"""What tests of streamserve and of its users need: in-memory twins of every port."""
