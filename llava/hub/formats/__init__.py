"""Writers of the formats that a checkpoint is exported to."""
