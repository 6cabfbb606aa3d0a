"""The laboratory of the reference experiments: data, networks and goals come in; trained runs and studies go out."""
