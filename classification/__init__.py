"""Recognition (vkd-classify) and detection (vkd-detect) with the distillation core of gan_vkd."""
