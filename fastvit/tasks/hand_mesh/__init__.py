"""3D hand mesh from one image: the parameters of a hand model, MANO or the synthetic one, and of a camera."""
