"""Files and runs come in; what people look at goes out: tables, pictures and pages."""
