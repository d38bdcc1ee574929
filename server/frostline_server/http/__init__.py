"""HTTP: the Open Inference Protocol as REST, raw rows as JSON, and a page; `front_end.HttpFrontEnd` starts and stops it."""
