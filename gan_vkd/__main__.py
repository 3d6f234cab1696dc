from gan_vkd.cli import main

main()
