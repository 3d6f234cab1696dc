"""Detection with the distillation core of gan_vkd: ViDT students and ViDT teachers."""
