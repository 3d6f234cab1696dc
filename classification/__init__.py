"""Recognition with the same core: ViT students, CNN teachers, the methods beside VkD."""
