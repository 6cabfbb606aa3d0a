"""What a tensor of a model is: values, a type and a shape come in; bucket indices on a grid or exact bits go out."""
