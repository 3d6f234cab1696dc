"""Detection with the same core: ViDT students from ViDT teachers."""
