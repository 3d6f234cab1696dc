from classification.cli import main

main()
