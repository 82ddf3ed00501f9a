"""`python -m sdft_ray.launch`."""

from sdft_ray.launch.command import main

if __name__ == "__main__":
    main()
