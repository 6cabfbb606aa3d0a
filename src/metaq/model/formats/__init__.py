"""Files of models as people have them: one file a format, all read alike, none of them trusted or executed."""
