from classification.detection.cli import main

main()
