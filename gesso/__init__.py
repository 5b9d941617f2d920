"""The ground that all of gesso stands on: errors, flags, files, pictures, processes, a dataset on disk. No Beam."""
