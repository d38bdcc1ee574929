"""Neural network modules: the families a recipe may name; `families.build` makes one."""
