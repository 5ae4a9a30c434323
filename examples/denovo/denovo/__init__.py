"""A small de novo peptide sequencing model, trained for real: the workload that Holter is shown and tested on."""
