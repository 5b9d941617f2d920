"""What all other parts of gesso import: errors, flags, storage, images, processes, a dataset on disk. No Beam."""
